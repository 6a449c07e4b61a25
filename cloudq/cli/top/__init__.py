"""`cloudq top` at work: what is drawn, the keys, and the loop."""
