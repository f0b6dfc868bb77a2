"""What the documentation states as fact and code decides is held against the code."""

import os
import re

import pytest

from ascend_keras.backends import base, host, npu_options
from ascend_keras.distributed.cluster import Cluster

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGES = ["README.md"] + sorted("docs/" + name for name in os.listdir(os.path.join(ROOT, "docs")) if name.endswith("md"))


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        return file.read()


def precision_rows():
    for line in read("docs/precision.md").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and re.match(r"`\w+`$", cells[0]):
            yield cells[0].strip("`"), cells[1], cells[3].strip("`"), cells[4], cells[5]


ROWS = list(precision_rows())


def test_precision_table_has_every_mode():
    assert {row[0] for row in ROWS} == set(host.KERAS_POLICY) - {None}


@pytest.mark.parametrize("mode, knobs, policy, on_host, on_npu", ROWS)
def test_precision_table_states_what_happens(mode, knobs, policy, on_host, on_npu):
    names = {"v1": "precision_mode", "v2": "precision_mode_v2"}
    for knob in knobs.split(", "):
        settings = base.Settings(npu_options.resolve({names[knob]: mode}), Cluster())
        assert (host.HostBackend(settings).policy or "the model's own") == policy
        assert ("dynamic" if host.HostBackend(settings).needs_loss_scale else "none") == on_host
        assert ("dynamic" if base.Backend(settings).needs_loss_scale else "none") == on_npu


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", read(page)):
        if "://" not in target:
            assert os.path.exists(os.path.join(ROOT, os.path.dirname(page), target)), target


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page):
    for name in re.findall(r"`((?:examples|test|docs|ascend_keras)/[\w/.-]+\.(?:py|sh|md|json|txt))`", read(page)):
        assert os.path.exists(os.path.join(ROOT, name)), name
