"""Faults of rank tables: where, which field, what is wrong, and the readers of single fields that find them."""

import ipaddress
from typing import Any, List, Mapping, NamedTuple, Optional

MAX_PORT = 65535


class Place(NamedTuple):
    """Where in a table: a server and a device by their ids, or by position where they have none; "" for all of it."""

    server: str = ""
    device: str = ""


class Fault(NamedTuple):
    """One thing that is wrong with a rank table.

    Attributes:
        server: id of the server, `server_list[1]` where it has none, "" where it is no single server.
        device: id of the device, `device[2]` where it has none, "" where it is no single device.
        field: the key as it stands in the file, an environment variable, or "path" and "JSON" for the file as such.
        text: what is wrong, the value received, the remedy.
        warning: whether the table may work all the same.
    """

    server: str
    device: str
    field: str
    text: str
    warning: bool = False

    def __str__(self):
        named = (("server ", self.server), ("device ", self.device), ("", self.field))
        where = ", ".join(title + value for title, value in named if value)
        return "{}: {}{}".format(where, "warning: " if self.warning else "", self.text)


class RankTableError(ValueError):
    """A rank table that cannot be used; the message lists every fault.

    Args:
        what: the table, for the first line.
        faults: a list of `Fault`.
    """

    def __init__(self, what, faults):
        self.faults = list(faults)
        super().__init__("\n  ".join(["{} cannot be used:".format(what)] + [str(fault) for fault in self.faults]))


_ABSENT = object()


class Faults:
    """Collects faults while a table is read."""

    def __init__(self):
        self.found: List[Fault] = []

    def add(self, place, field, what, value=_ABSENT, remedy="", warning=False):
        """Notes a fault; the text is put together from what is wrong, the value and the remedy."""
        received = "" if value is _ABSENT else " Received: {}={}.".format(field, shown(value))
        self.found.append(Fault(place.server, place.device, field, what + received + " " + remedy, warning))

    # --- fields of the versions 1.x, whose scalars are text ------------------------------------------------------

    def text(self, place, where: Mapping[str, Any], field, required=True) -> Optional[str]:
        """A text that is not empty; None, with a fault noted, where it is something else."""
        if field not in where:
            if required:
                self.add(place, field, "It is missing.", remedy='Add "{}": "...".'.format(field))
            return None
        value = where[field]
        if not isinstance(value, str):
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            remedy = 'Write "{}": "{}".'.format(field, value if is_number else "...")
            self.add(place, field, "It must be text in quotes.", value, remedy)
        elif not value.strip():
            self.add(place, field, "It must not be empty.", value, "Give a value.")
        else:
            return value
        return None

    def number(self, place, where, field, required=True, most=2**31 - 1) -> Optional[int]:
        """A whole number from 0 on, as text."""
        value = self.text(place, where, field, required)
        if value is None:
            return None
        if not is_digits(value) or int(value) > most:
            limit = "0 on" if most == 2**31 - 1 else "0 to {}".format(most)
            self.add(place, field, "It must be a whole number from {}, as text.".format(limit), value, "Correct it.")
            return None
        return int(value)

    def counted(self, place, where, field, actual, what, required=True):
        """A number, as text, that must equal what was counted."""
        value = self.number(place, where, field, required)
        if value is not None and value != actual:
            self.add(place, field, "There are {} {}.".format(actual, what), where[field], 'Write "{}".'.format(actual))

    def addresses(self, place, where, field, required=False) -> str:
        """IP addresses separated by commas, as text; "" where there are none or one is wrong."""
        if where.get(field) == "" and not required:
            return ""
        value = self.text(place, where, field, required)
        if value is None:
            return ""
        wrong = [one for one in value.split(",") if not is_ip(one)]
        if wrong:
            self.add(place, field, "{!r} is no IPv4 or IPv6 address.".format(wrong[0]), value, "Correct the address.")
            return ""
        return value

    # --- lists ---------------------------------------------------------------------------------------------------

    def entries(self, place, where, field) -> List[Mapping[str, Any]]:
        """The objects of a list that must not be empty."""
        value = where.get(field, _ABSENT)
        if value is _ABSENT:
            self.add(place, field, "It is missing.", remedy='Add "{}": [...].'.format(field))
        elif not isinstance(value, list):
            self.add(place, field, "It must be a list.", value, "Write [...].")
        elif not value:
            self.add(place, field, "The list must not be empty.", value, "Fill it.")
        else:
            wrong = [one for one in value if not isinstance(one, dict)]
            if wrong:
                self.add(place, field, "The list must hold objects only.", wrong[0], "Write {...}.")
            return [one for one in value if isinstance(one, dict)]
        return []

    # --- fields of version 2.0, whose numbers are numbers --------------------------------------------------------

    def integer(self, place, where, field, required=True, most=2**31 - 1) -> Optional[int]:
        """A whole number from 0 on, as a number."""
        if field not in where:
            if required:
                self.add(place, field, "It is missing.", remedy='Add "{}": ....'.format(field))
            return None
        value = where[field]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            limit = "0 on" if most == 2**31 - 1 else "0 to {}".format(most)
            what = "It must be a whole number from {}, not in quotes.".format(limit)
            self.add(place, field, what, value, "Correct it.")
            return None
        return value


def is_digits(text) -> bool:
    """Whether it is a whole number from 0 on, in at most ten of the digits 0 to 9."""
    return 0 < len(text) <= 10 and all("0" <= one <= "9" for one in text)


def is_ip(text) -> bool:
    """Whether it is an IPv4 or IPv6 address, without zone; leading zeros, which some read as octal, are refused."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text and (address.version == 6 or str(address) == text)


def same_ip(text):
    """A form in which equal addresses are equal."""
    return str(ipaddress.ip_address(text))


def shown(value):
    """`value` as JSON would have it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def check_status(faults, content):
    """HCCL waits for the status "completed" until it gives up."""
    status = faults.text(Place(), content, "status")
    if status is not None and status != "completed":
        what = "HCCL takes the table for unfinished and waits."
        faults.add(Place(), "status", what, status, 'Write "completed" once the table is whole.')
