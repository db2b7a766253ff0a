"""Attribution: from a prompt's run to the edges of its graph."""
