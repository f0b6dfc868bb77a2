"""Which recipe fits a folder of data, and what the scripts in test/ do with their arguments. Standard library only.

`python -m ascend_keras.recipes KIND ARGUMENT...` prints shell code for test/train_common.sh: either assignments that
describe the run, or a message and an exit. `lines` has the lines of the recipes' logs, and reads them.
"""

from ascend_keras.recipes.data_sets import CHECKOUT, SCRIPTS, UsageError, choose, recognise
from ascend_keras.recipes.flags import Flag, parse, script_flags
from ascend_keras.recipes.plan import plan
from ascend_keras.recipes.scripts import help_text

__all__ = [
    "CHECKOUT",
    "SCRIPTS",
    "Flag",
    "UsageError",
    "choose",
    "help_text",
    "parse",
    "plan",
    "recognise",
    "script_flags",
]
