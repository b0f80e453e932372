"""Looking at what a search did: an episode's trees, recorded and drawn as text and as a page for a browser.

`tree_recording.py` plays the episode; `shown_tree.py` picks the nodes to show, with the scores of `edge_scores.py`;
`tree_text.py` and `tree_html.py` write them, the latter with the parts in `tree_page`; `observations.py` draws what was
seen. May import all that acts, but no trainer and no command.
"""
