"""The commands, one file each; `swa_tools.cli` imports only the one that runs."""
