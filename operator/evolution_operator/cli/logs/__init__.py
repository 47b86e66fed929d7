"""`evolution logs`: what the stages of a run print, on a cluster or on this machine."""
