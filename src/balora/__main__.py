"""``python -m balora``: the command line."""

from balora.cli import main

if __name__ == "__main__":
    main()
