"""A model of a run as a folder for the Hugging Face Hub: adapter or merged model, tokenizer, model card, serving manifests."""
