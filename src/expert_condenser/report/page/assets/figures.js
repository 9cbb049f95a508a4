// The figures that come as they are: curves over steps, the long tail, the front of a study.
for (const place of document.querySelectorAll("[data-figure]")) {
  const figure = DATA.figures[place.dataset.figure];
  drawWhenSeen(place, () => {
    const count = figure.traces.length, columns = Math.max(1, Math.floor(place.clientWidth / 190));
    const showlegend = count > 1 && (count <= 12 || columns > 2); // a long one would leave no room; a touch names a curve
    const height = (count > 12 ? 400 : 330) + (showlegend ? 20 * Math.ceil(count / columns) : 0);
    draw(place, styled(figure.traces), { ...figure.layout, showlegend, height });
  });
}
