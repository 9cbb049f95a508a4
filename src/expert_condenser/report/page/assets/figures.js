// The figures that come as they are: curves over steps, the long tail, the front of a study.
for (const place of document.querySelectorAll("[data-figure]")) {
  const figure = DATA.figures[place.dataset.figure];
  drawWhenSeen(place, () => draw(place, styled(figure.traces), { ...figure.layout, showlegend: figure.traces.length > 1 }));
}
