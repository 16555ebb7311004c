import sys
from pathlib import Path

# helpers.py lies beside the tests; with importlib's import mode pytest does not put the folder on the path.
sys.path.insert(0, str(Path(__file__).parent))
