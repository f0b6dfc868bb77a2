"""`python -m ascend_keras.recipes KIND ARGUMENT...`: shell code for test/train_common.sh."""

import sys

from ascend_keras.recipes.plan import plan

sys.stdout.write(plan(sys.argv[1], sys.argv[2:]) + "\n")
