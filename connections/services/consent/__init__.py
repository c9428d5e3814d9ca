"""Admin consent: links for administrators, requests by members, and checks of what Microsoft has granted."""
