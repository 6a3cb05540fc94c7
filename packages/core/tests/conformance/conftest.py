"""Make the provisioners of this folder importable, also in the fresh processes of the suite."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
