"""What regenerates every published number, and the networks and data that it is measured on."""
