"""Task: what the user brings; the built-in ones; loading, checking and splitting one."""

from trimtab.tasks.folds import folds as folds
from trimtab.tasks.load import TASKS as TASKS
from trimtab.tasks.load import load_task as load_task
from trimtab.tasks.split import split_test as split_test
from trimtab.tasks.switches import evaluating as evaluating
from trimtab.tasks.switches import limit_threads as limit_threads
from trimtab.tasks.task import Inputs as Inputs
from trimtab.tasks.task import Loader as Loader
from trimtab.tasks.task import Task as Task
from trimtab.tasks.task import call as call
from trimtab.tasks.validate import validate as validate
