"""Deployments to Google Cloud: Pub/Sub pushes to Cloud Run functions, Firestore keeps results."""
