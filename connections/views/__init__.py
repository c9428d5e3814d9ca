"""Plain function views: guard, form, one service call, message, redirect."""
