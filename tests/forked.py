"""Imported by the process that workers are forked from, to import for them what a run imports."""

import zygote

zygote.import_all()
