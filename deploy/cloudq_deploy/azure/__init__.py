"""Deployments to Azure: Service Bus triggers a function app, Table storage keeps results."""
