"""True simulators in torch: many games at once, one small file each.

Each keeps the protocol of `alfish/environments/simulator.py`. The Gymnasium adapter beside this folder offers the same
for other environments, slower. May import what `environments` may.
"""
