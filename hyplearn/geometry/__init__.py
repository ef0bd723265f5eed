"""Pure functions on the hyperboloid, the Poincare ball and the sphere. Imports torch alone and keeps no state."""
