"""The network on the board: targets, artifacts, measurements, statistics."""
