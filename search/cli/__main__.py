"""`python -m search.cli` is `segtune`."""

from search.cli import main

if __name__ == "__main__":
    main()
