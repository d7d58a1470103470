"""Judge: what a candidate answers, how good that is per slice, and how sure we are, paired with the original.

user_code     the one place where code of the user is called
metrics       a metric by name or callable; what it says about single samples
predictions   run an artifact on data through a device, decode, check
damage        how far outputs drift from the original's on a few probe samples: the cheap gate
intervals     95 % intervals and tests of paired data
checks        predictions and masks that fit the data, a metric that compares
verdicts      all of it together: an Evaluation
"""
