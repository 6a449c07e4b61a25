"""The shop as a worker's process loads it: `-A shop_app:app` with this folder on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.dashboard.shop import shop

app = shop("memory://replaced")
