"""One file per family of the block catalogue; importing a file registers its blocks and relations. `layers` is what they share."""
