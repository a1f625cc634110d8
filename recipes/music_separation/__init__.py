"""Music separation with an elastic BSRNN: data, model, training, separation of whole songs."""
