"""Plain function views: check access, validate the form, call one service, then show a message and redirect."""
