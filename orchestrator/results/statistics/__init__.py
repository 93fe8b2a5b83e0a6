"""Statistics of small numbers of seeds. Plain functions of numbers; every result names its method and the source of it.

spread.py     bootstrap intervals of one group
estimates.py  a difference and how sure it is: over paired units, or from printed means and stds
margins.py    one-sided tests against a margin: difference, equivalence (TOST), several at once
paired.py     two rows over what they share, many pairs with Holm's correction
across.py     interquartile mean and probability of improvement over several data sets
ranks.py      whether two orders of the same rows agree
looks.py      looking several times while seeds come in, with alpha spent over the looks
repeated_t.py exact bounds of repeated t tests

What all of it defines alike. A value that is not a finite number is left out and counted, as if its seed had failed.
One value has no spread: no interval, no p. Two values have one degree of freedom and get the wide interval that this
means. Where all values are equal the interval is that one point, p is 0 or 1, and a note says so. Seeds that only one
side of a comparison has are left out of the paired comparison, and counted.

Pairing assumes what the plan guarantees: cells of one column with the same seed train on the same subset, in the same
order, so that the luck of the draw cancels in their difference. Different seeds are independent; different data sets or
fractions with one seed need not be, and are never counted as further units.

statsmodels (Holm, TOST) and rliable (interquartile mean, probability of improvement) were weighed: together 60 MB for
what are five lines each on scipy. The tests compare with statsmodels instead.
"""

from __future__ import annotations
