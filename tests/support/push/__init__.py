"""Services of push in threads of ours: FCM, APNs and a push service of browsers, as their documents have them."""
