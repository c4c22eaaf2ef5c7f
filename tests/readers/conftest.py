"""Let the tests in this folder import its modules by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
