"""`python -m edgeloop` is the command line."""

from edgeloop.cli.app import main

if __name__ == "__main__":
    main()
