"""Language models: every depth a language model, by sorted fine-tuning."""
