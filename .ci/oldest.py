"""Print the oldest versions that setup.cfg allows of each dependency, as constraints for pip."""

import configparser
import re
from pathlib import Path

settings = configparser.ConfigParser()
settings.read(Path(__file__).parents[1] / "setup.cfg")
lists = [settings["options"]["install_requires"], *settings["options.extras_require"].values()]
bounds = re.findall(r"^([\w-]+)(?:\[[\w,-]+\])?>=([\w.]+)", "\n".join(lists), re.MULTILINE)
print("\n".join(sorted({f"{name}=={version}" for name, version in bounds})))
# Matplotlib of that time calls what pyparsing 3.3 warns of, and warnings are errors in the tests.
print("pyparsing<3.3")
