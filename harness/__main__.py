"""`python -m rlhf_bench.harness` is `bench`."""

from rlhf_bench.harness.cli.main import main

if __name__ == "__main__":  # worker processes import this module under another name
    main()
