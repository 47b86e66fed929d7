"""How a model answers people in crisis: the test set, the rules that judge a reply, and the question for a judge."""
