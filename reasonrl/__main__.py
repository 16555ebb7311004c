"""`python -m reasonrl` is `reasonrl`."""

from reasonrl.cli import main

if __name__ == "__main__":
    main()
