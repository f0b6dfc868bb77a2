"""Typed options. The checks, and the gaps in them, are those of the adapter (behaviour 23)."""


class OptionValue:
    """One option: the value as text, with '1' and '0' for booleans."""

    def __init__(self, default, optional):
        self._default = default
        self._optional = optional
        self._value = default

    @property
    def default(self):
        return self._default

    @property
    def optional(self):
        return self._optional

    @property
    def value(self):
        if self._value is None:
            return None
        text = str(self._value)
        return {"True": "1", "False": "0"}.get(text, text)

    @value.setter
    def value(self, value):
        if isinstance(self._optional, (list, tuple)) and value not in self._optional:
            if self._default is not None and not isinstance(value, type(self._default)):
                raise TypeError("Expected {}, got {}".format(type(self._default).__name__, type(value).__name__))
            raise ValueError("'{}' not in optional list {}".format(value, self._optional))
        self._value = value


class DeprecatedValue(OptionValue):
    def __init__(self, optional, replacement):
        super().__init__(None, optional)
        self.replacement = replacement


class NpuBaseConfig:
    """A group of options. Unknown names are refused; a group itself can be replaced by anything."""

    def __init__(self):
        self._fixed_attrs = [
            name for name, value in self.__dict__.items() if isinstance(value, (OptionValue, NpuBaseConfig))
        ]

    def __setattr__(self, name, value):
        if "_fixed_attrs" not in self.__dict__:
            super().__setattr__(name, value)
        elif name not in self._fixed_attrs:
            raise ValueError("{} has no option {}, all options {}".format(type(self).__name__, name, self._fixed_attrs))
        elif isinstance(getattr(self, name), OptionValue):
            getattr(self, name).value = value
        else:
            super().__setattr__(name, value)

    def as_dict(self):
        """The options that have a value, groups flattened."""
        options = {}
        for name, entry in self.__dict__.items():
            if name not in self._fixed_attrs:
                continue
            if isinstance(entry, NpuBaseConfig):
                options.update(entry.as_dict())
            elif isinstance(entry, OptionValue) and entry.value is not None:
                if isinstance(entry, DeprecatedValue):
                    print(
                        "[warning][tf_adapter] Option '{}' is deprecated and will be removed in future version. "
                        "Replacement: {}".format(name, entry.replacement)
                    )
                options[name] = entry.value
        return options


def config_class(name, **entries):
    """Makes a group class from makers of its entries."""

    def init(self):
        for entry, make in entries.items():
            setattr(self, entry, make())
        NpuBaseConfig.__init__(self)

    return type(name, (NpuBaseConfig,), {"__init__": init})


def option(default=None, optional=None):
    return lambda: OptionValue(default, optional)


def deprecated(optional=None, replacement=None):
    return lambda: DeprecatedValue(optional, replacement)
