"""`python -m swa_tools`, which `torchrun -m swa_tools` launches."""

from swa_tools.cli import main

if __name__ == "__main__":
    main()
