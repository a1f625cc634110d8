"""Text classification: a pretrained sentence encoder, elastic after sorting by importance, in a short fine-tune."""
