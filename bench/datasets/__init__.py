"""One file = one data set: where it comes from, checksum, licence, how to read it."""
