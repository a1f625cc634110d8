"""Image classification: elastic fine-tuning of a timm model, search under budgets, plain submodels."""
