"""The report: one self-contained HTML page for a grid. `page.build` puts it together from

runs.py      what ran where and for how long, what is missing, versions, data, the run of each cell
glance.py    the table as a picture
curves.py    curves of finetuning and of pretraining as drawings that follow the page's colours
pictures.py  the pictures of analyses, inside the page
studies.py   the trials of each study

Templates and style sheet lie in `render/templates`.
"""
