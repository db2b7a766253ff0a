"""``python -m tl_attribution``: the same as the ``tl-attribution`` command."""

from tl_attribution.cli import main

if __name__ == "__main__":
    main()
