"""What whoever runs the service needs: the plan of this machine, metrics, deployment."""
