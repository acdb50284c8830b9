"""`python -m flaxmobile` is the `flaxmobile` command."""

from flaxmobile.cli import main

if __name__ == '__main__':
    main()
