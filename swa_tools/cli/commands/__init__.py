"""The commands, one file each; `swa_tools.cli` imports the one that is asked for."""
