"""`python -m orchestrator.cli`: the command line where no script is on the PATH, as in a pod."""

from orchestrator.cli import main

main()
