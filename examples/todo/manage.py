"""The todo app alone: `python examples/todo/manage.py runserver --noreload`; todo/settings.py names its lake."""

import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "todo.settings")
execute_from_command_line(sys.argv)
