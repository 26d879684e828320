"""`python -m plainunet`: the same as the command `plainunet`."""

from plainunet.cli import main

if __name__ == "__main__":
    main()
