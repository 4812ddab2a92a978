# One image for web and worker; compose.yaml says what each of them runs.
FROM python:3.13-slim
ENV PYTHONUNBUFFERED=1
WORKDIR /app
COPY . .
RUN pip install --no-cache-dir ".[redis,postgres,demo]" "gunicorn>=23" \
    && useradd --create-home app && mkdir /data && chown app /data
USER app
ENV MEDIA_ROOT=/data
VOLUME /data
EXPOSE 8000
CMD ["gunicorn", "demo_project.wsgi", "--bind=0.0.0.0:8000"]
