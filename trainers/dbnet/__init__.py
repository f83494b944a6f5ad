"""DBNet text detection (Liao et al. 2020): targets, network, loss, decoding and the ICDAR score."""
