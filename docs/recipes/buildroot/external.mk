# No packages: the programs are in the overlay.
