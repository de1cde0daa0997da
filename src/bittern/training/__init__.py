"""Training a codec: configuration, data, losses, the loop. Needs the extra `bittern[train]`."""
